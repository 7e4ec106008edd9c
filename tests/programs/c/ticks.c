// Makes a call that is known every 10 ms (`ticks FILE`), or one call after another with some work in between (`ticks FILE busy`):
// getpgid(FIRST + n), which fails. FILE is an array of times, one before the call of each number n, and 0 for those that
// were not made yet; that of a busy one begins with how many were made.

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { FIRST = 100000000, MOST = 1 << 17 };

static long long now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv) {
	int fd = argc < 2 ? -1 : open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
	size_t size = MOST * sizeof(long long);
	if (fd < 0 || ftruncate(fd, size) < 0) {
		perror("ticks");
		return 1;
	}
	volatile long long *times = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (times == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	if (argc > 2 && strcmp(argv[2], "busy") == 0) {
		for (;; times[0]++) {
			getpgid(FIRST);
			for (volatile int work = 0; work < 10000; work++) {
			}
		}
	}
	for (int n = 0; n < MOST - 1; n++) {
		times[n] = now();
		getpgid(FIRST + n);
		struct timespec t = {0, 10000000};
		nanosleep(&t, NULL);
	}
	return 0;
}
