// Many threads and many processes: `crowd MODE ...`. Prints what a test compares with.

#define _GNU_SOURCE
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { STACK = 64 << 10, CODES = 100, AT_ONCE = 4 };

extern char **environ;

static void need(int ok, const char *what) {
	if (!ok) {
		perror(what);
		exit(1);
	}
}

static long long now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void sleep_ns(long long ns) {
	struct timespec t = {ns / 1000000000, ns % 1000000000};
	nanosleep(&t, NULL);
}

static long long until;

static void start_all(pthread_t *threads, long count, void *(*function)(void *)) {
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	for (long i = 0; i < count; i++) {
		need(pthread_create(&threads[i], &attr, function, (void *)i) == 0, "pthread_create");
	}
}

// Wakes up now and then.
static void *doze(void *number) {
	sleep_ns((long)number % 1000 * 1000000);
	while (now() < until) {
		sleep_ns(1000000000);
	}
	return NULL;
}

// `crowd threads COUNT SECONDS`
static void threads(long count, long seconds) {
	pthread_t *all = calloc(count, sizeof *all);
	until = now() + seconds * 1000000000LL;
	start_all(all, count, doze);
	printf("threads=%ld\n", count);
	fflush(stdout);
	for (long i = 0; i < count; i++) {
		pthread_join(all[i], NULL);
	}
}

// Sleeps and computes in turn, each so often that its waits for a CPU are many and short; prints how long they
// were by the kernel's account, between two moments.
static void *nap(void *unused) {
	(void)unused;
	long long cpu, delay[2], begin[2];
	for (int i = 0; i < 2; i++) {
		// The account is up to date when the thread has just got the CPU.
		sleep_ns(1000000);
		begin[i] = now();
		FILE *file = fopen("/proc/thread-self/schedstat", "r");
		need(file && fscanf(file, "%lld %lld", &cpu, &delay[i]) == 2, "schedstat");
		fclose(file);
		while (i == 0 && now() < until) {
			for (long long end = now() + 100000; now() < end;) {
			}
			sleep_ns(200000);
		}
	}
	printf("tid=%ld begin=%lld end=%lld delay=%lld\n", syscall(SYS_gettid), begin[0], begin[1],
	       delay[1] - delay[0]);
	return NULL;
}

// `crowd naps COUNT SECONDS`
static void naps(long count, long seconds) {
	pthread_t *all = calloc(count, sizeof *all);
	until = now() + seconds * 1000000000LL;
	start_all(all, count, nap);
	for (long i = 0; i < count; i++) {
		pthread_join(all[i], NULL);
	}
}

// Starts this program again, which ends at once. Few at a time, so that this goes on for as long as is asked for.
// `crowd storm RATE SECONDS`
static void storm(long rate, long seconds) {
	long started = 0, wrong = 0;
	long long begin = now();
	until = begin + seconds * 1000000000LL;
	int codes[AT_ONCE] = {0};
	char self[4096] = {0};
	need(readlink("/proc/self/exe", self, sizeof self - 1) > 0, "readlink");
	pid_t pids[AT_ONCE] = {0};
	for (int i = 0; now() < until || started % AT_ONCE; i = (i + 1) % AT_ONCE) {
		int status;
		if (pids[i]) {
			need(waitpid(pids[i], &status, 0) == pids[i], "waitpid");
			wrong += !WIFEXITED(status) || WEXITSTATUS(status) != codes[i];
		}
		long long early = begin + started * 1000000000LL / rate - now();
		if (early > 0) {
			sleep_ns(early);
		}
		char code[16], number[16];
		codes[i] = started % CODES;
		snprintf(code, sizeof code, "%d", codes[i]);
		snprintf(number, sizeof number, "%ld", started);
		char *arguments[] = {"crowd", "end", code, number, NULL};
		// By vfork and execve.
		need(posix_spawn(&pids[i], self, NULL, NULL, arguments, environ) == 0, "spawn");
		started++;
	}
	for (int i = 0; i < AT_ONCE; i++) {
		int status;
		if (pids[i]) {
			waitpid(pids[i], &status, 0);
			wrong += !WIFEXITED(status) || WEXITSTATUS(status) != codes[i];
		}
	}
	printf("pid=%d started=%ld wrong=%ld\n", getpid(), started, wrong);
}

int main(int argc, char **argv) {
	if (argc != 4) {
		fprintf(stderr, "usage: crowd threads|naps COUNT SECONDS, crowd storm RATE SECONDS, crowd end CODE NUMBER\n");
		return 2;
	}
	long first = atol(argv[2]), second = atol(argv[3]);
	if (!strcmp(argv[1], "end")) {
		_exit((int)first);
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!strcmp(argv[1], "threads")) {
		threads(first, second);
	} else if (!strcmp(argv[1], "naps")) {
		naps(first, second);
	} else {
		storm(first, second);
	}
	return 0;
}
