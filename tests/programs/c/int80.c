// Calls of the 32-bit interface in a 64-bit program: `int80 calls`, and `int80 blocks`, which waits for ever in one.

#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

// arch/x86/entry/syscalls/syscall_32.tbl
enum { READ = 3, WRITE = 4, GETPID = 20, KILL = 37 };

static long call(long nr, long a, long b, long c, long d, long e)
{
	// What a call of the 64-bit interface would look at.
	register long r8 __asm__("r8") = 0x8888, r9 __asm__("r9") = 0x9999, r10 __asm__("r10") = 0x1010;
	long result;
	__asm__ volatile("int $0x80"
			 : "=a"(result), "+r"(r8), "+r"(r9), "+r"(r10)
			 : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
			 : "memory");
	return result;
}

int main(int argc, char **argv)
{
	// Where a 32-bit address leads.
	char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	int pipes[2];
	if (argc != 2 || low == MAP_FAILED || pipe(pipes))
		return 1;
	strcpy(low, "hello\n");
	if (!strcmp(argv[1], "blocks"))
		return call(READ, pipes[0], (long)low, 16, 0x5151, 0x7777) < 0;
	call(GETPID, 0x11, 0x22, 0x33, 0x5151, 0x7777);
	call(WRITE, pipes[1], (long)low, 6, 0x5151, 0x7777);
	call(KILL, 0, 0, 0x33, 0x5151, 0x7777);
	return 0;
}
