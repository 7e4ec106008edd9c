// The first thread leaves, and another one ends the process some time later: `leaderless exit|return|abort|kill MS`. With
// -DGO it calls Go meanwhile (tests/programs/go/carchive), and `leaderless go MS` ends with 6.

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef GO
#include "libgo.h"
#endif

static const char *how;
static long ms;

static void pause_ms(long ms)
{
	struct timespec t = {ms / 1000, ms % 1000 * 1000000};
	nanosleep(&t, NULL);
}

// Whether the first thread is a zombie.
static int is_alone(void)
{
	char stat[256] = "";
	FILE *file = fopen("/proc/self/stat", "r");
	if (!file || !fgets(stat, sizeof stat, file))
		exit(1);
	fclose(file);
	return strrchr(stat, ')')[2] == 'Z';
}

static void *other(void *arg)
{
	while (!is_alone())
		pause_ms(1);
	puts("alone");
	fflush(stdout);
#ifdef GO
	for (long at = 0; at < ms; at += 5) {
		GoPing(20);
		pause_ms(5);
	}
	exit(6);
#endif
	pause_ms(ms);
	if (!strcmp(how, "exit"))
		exit(7);
	if (!strcmp(how, "abort"))
		abort();
	if (!strcmp(how, "kill"))
		kill(getpid(), SIGKILL);
	return arg;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	if (argc != 3)
		return 1;
	how = argv[1];
	ms = atol(argv[2]);
#ifdef GO
	// The runtime has begun.
	GoPing(1);
#endif
	if (pthread_create(&thread, NULL, other, NULL))
		return 1;
	pthread_exit(NULL);
}
