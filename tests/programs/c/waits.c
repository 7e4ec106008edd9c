// Threads that wait in ways that are known: `waits MODE [FILE]`. Prints what a test compares with.

#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, SHORT_LIVES = 400, AT_ONCE = 4, ENOUGH = 20, SECONDS = 20 };

static void need(int ok, const char *what) {
	if (!ok) {
		perror(what);
		exit(1);
	}
}

static void sleep_ms(long ms) {
	struct timespec t = {ms / 1000, ms % 1000 * 1000000};
	nanosleep(&t, NULL);
}

static long long now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int tid(void) { return (int)syscall(SYS_gettid); }

static void spin(long ms) {
	for (long long end = now() + ms * 1000000LL; now() < end;) {
	}
}

static pthread_t start(void *(*function)(void *), void *argument) {
	pthread_t thread;
	need(pthread_create(&thread, NULL, function, argument) == 0, "pthread_create");
	return thread;
}

// Another process writes to a pipe that this one reads.
static void wait_for_pipe(void) {
	int fds[2];
	char byte;
	need(pipe(fds) == 0, "pipe");
	pid_t child = fork();
	if (child == 0) {
		prctl(PR_SET_NAME, "writer");
		sleep_ms(100);
		_exit(write(fds[1], "x", 1) == 1 ? 0 : 1);
	}
	need(read(fds[0], &byte, 1) == 1, "read");
	waitpid(child, NULL, 0);
	printf("writer=%d\n", child);
}

static void wait_for_packet(void) {
	int fds[2];
	char byte;
	struct sockaddr_storage address;
	socklen_t length = sizeof address;
	for (int i = 0; i < 2; i++) {
		fds[i] = socket(AF_INET, SOCK_DGRAM, 0);
	}
	memset(&address, 0, sizeof address);
	address.ss_family = AF_INET;
	need(bind(fds[0], (struct sockaddr *)&address, 16) == 0, "bind");
	need(getsockname(fds[0], (struct sockaddr *)&address, &length) == 0, "getsockname");
	if (fork() == 0) {
		sleep_ms(100);
		_exit(sendto(fds[1], "x", 1, 0, (struct sockaddr *)&address, length) == 1 ? 0 : 1);
	}
	need(recv(fds[0], &byte, 1, 0) == 1, "recv");
	wait(NULL);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void *hold(void *ms) {
	int *result = malloc(sizeof *result);
	*result = tid();
	pthread_mutex_lock(&mutex);
	sleep_ms((long)ms);
	pthread_mutex_unlock(&mutex);
	return result;
}

// The first one waits for the main thread, and the second one for the first.
static void wait_for_mutex(void) {
	void *first_tid, *second_tid;
	pthread_mutex_lock(&mutex);
	pthread_t first = start(hold, (void *)200);
	sleep_ms(100);
	pthread_mutex_unlock(&mutex);
	sleep_ms(50);
	pthread_t second = start(hold, (void *)1);
	pthread_join(first, &first_tid);
	pthread_join(second, &second_tid);
	printf("futex=%ld first=%d second=%d\n", (long)&mutex, *(int *)first_tid, *(int *)second_tid);
}

// How often this thread has left the CPU in order to wait.
static long waited(void) {
	struct rusage usage;
	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_nvcsw;
}

// Of those, the ones in the loops below.
static long counted;

// A disk may be so fast that hardly anything has to wait for it: do it until there were enough waits.
static void until_enough_waits(void (*function)(int), const char *path, int flags) {
	long long end = now() + SECONDS * 1000000000LL;
	int fd = open(path, O_RDONLY | flags);
	need(fd >= 0, path);
	while (counted < ENOUGH && now() < end) {
		need(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0, "posix_fadvise");
		function(fd);
	}
	printf("waited=%ld\n", counted);
}

static size_t size_of(int fd) {
	struct stat status;
	need(fstat(fd, &status) == 0, "fstat");
	return (size_t)status.st_size;
}

static void touch(int fd) {
	size_t size = size_of(fd);
	volatile char *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	need(map != MAP_FAILED, "mmap");
	need(madvise((void *)map, size, MADV_RANDOM) == 0, "madvise");
	long before = waited();
	for (size_t at = 0; at < size; at += PAGE) {
		(void)map[at];
	}
	counted += waited() - before;
	munmap((void *)map, size);
}

// The kernel touches the memory, on behalf of a system call.
static void write_all(int fd) {
	static char buffer[PAGE];
	int fds[2];
	size_t size = size_of(fd);
	char *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	need(map != MAP_FAILED, "mmap");
	need(madvise(map, size, MADV_RANDOM) == 0, "madvise");
	need(pipe(fds) == 0, "pipe");
	long before = waited();
	for (size_t at = 0; at < size; at += PAGE) {
		need(write(fds[1], map + at, PAGE) == PAGE, "write");
		need(read(fds[0], buffer, PAGE) == PAGE, "read");
	}
	counted += waited() - before;
	close(fds[0]);
	close(fds[1]);
	munmap(map, size);
}

static void read_all(int fd) {
	void *buffer = NULL;
	need(posix_memalign(&buffer, PAGE, PAGE) == 0, "posix_memalign");
	size_t size = size_of(fd);
	long before = waited();
	for (size_t at = 0; at < size; at += PAGE) {
		need(pread(fd, buffer, PAGE, (off_t)at) == PAGE, "pread");
	}
	counted += waited() - before;
	free(buffer);
}

static int memory_fd;

static void *give_memory(void *page) {
	static char content[PAGE] __attribute__((aligned(PAGE)));
	prctl(PR_SET_NAME, "giver");
	sleep_ms(100);
	struct uffdio_copy copy = {(unsigned long)page, (unsigned long)content, PAGE, 0, 0};
	need(ioctl(memory_fd, UFFDIO_COPY, &copy) == 0, "UFFDIO_COPY");
	return NULL;
}

// A page of memory that another thread provides when it is touched.
static char *slow_page(void) {
	memory_fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	need(memory_fd >= 0, "userfaultfd");
	struct uffdio_api api = {.api = UFFD_API};
	need(ioctl(memory_fd, UFFDIO_API, &api) == 0, "UFFDIO_API");
	char *page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	need(page != MAP_FAILED, "mmap");
	struct uffdio_register range = {{(unsigned long)page, PAGE}, UFFDIO_REGISTER_MODE_MISSING, 0};
	need(ioctl(memory_fd, UFFDIO_REGISTER, &range) == 0, "UFFDIO_REGISTER");
	start(give_memory, page);
	return page;
}

static void wait_for_memory(void) { (void)*(volatile char *)slow_page(); }

static void *yield(void *unused) {
	for (int i = 0; i < 1000; i++) {
		sched_yield();
	}
	return unused;
}

static void give_way(void) {
	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET(0, &one);
	need(sched_setaffinity(0, sizeof one, &one) == 0, "sched_setaffinity");
	pthread_t other = start(yield, NULL);
	yield(NULL);
	pthread_join(other, NULL);
}

static void *live_shortly(void *number) {
	if ((long)number % 3 == 0) {
		sched_yield();
	}
	return NULL;
}

static void *sleep_on(void *unused) {
	pause();
	return unused;
}

// Threads that end at once, children, and threads that are killed with their process.
static void live_shortly_often(void) {
	pthread_t threads[AT_ONCE];
	for (long i = 0; i < SHORT_LIVES; i++) {
		for (int j = 0; j < AT_ONCE; j++) {
			threads[j] = start(live_shortly, (void *)i);
		}
		if (i % 20 == 0 && fork() == 0) {
			_exit(0);
		}
		for (int j = 0; j < AT_ONCE; j++) {
			pthread_join(threads[j], NULL);
		}
	}
	while (wait(NULL) > 0) {
	}
	for (int j = 0; j < AT_ONCE; j++) {
		start(sleep_on, NULL);
	}
	sleep_ms(10);
}

static const char *self;

static void *replace(void *rounds) {
	// It shall be seen for a while.
	sleep_ms(150);
	char text[32];
	snprintf(text, sizeof text, "%ld", (long)rounds - 1);
	execl(self, self, "exec", text, NULL);
	exit(1);
}

// A thread that is not the first one replaces the program, again and again, while the first one runs, sleeps or has ended.
static void replace_often(long rounds) {
	if (rounds == 0) {
		return;
	}
	start(sleep_on, NULL);
	start(replace, (void *)rounds);
	switch (rounds % 3) {
	case 0:
		sleep_ms(120);
		pthread_exit(NULL);
	case 1:
		pause();
		break;
	default:
		spin(10000);
	}
}

int main(int argc, char **argv) {
	const char *mode = argc > 1 ? argv[1] : "";
	const char *more = argc > 2 ? argv[2] : "";
	self = argv[0];
	if (strcmp(mode, "pipe") == 0) {
		wait_for_pipe();
	} else if (strcmp(mode, "packet") == 0) {
		wait_for_packet();
	} else if (strcmp(mode, "mutex") == 0) {
		wait_for_mutex();
	} else if (strcmp(mode, "timer") == 0) {
		sleep_ms(100);
	} else if (strcmp(mode, "fault") == 0) {
		wait_for_memory();
	} else if (strcmp(mode, "disk") == 0) {
		until_enough_waits(read_all, more, O_DIRECT);
	} else if (strcmp(mode, "touch") == 0) {
		until_enough_waits(touch, more, 0);
	} else if (strcmp(mode, "touch-in-call") == 0) {
		until_enough_waits(write_all, more, 0);
	} else if (strcmp(mode, "yield") == 0) {
		give_way();
	} else if (strcmp(mode, "spin") == 0) {
		spin(atol(more));
	} else if (strcmp(mode, "lives") == 0) {
		live_shortly_often();
	} else if (strcmp(mode, "exec") == 0) {
		replace_often(atol(more));
	} else {
		fprintf(stderr, "usage: waits MODE [FILE]\n");
		return 2;
	}
	return 0;
}
