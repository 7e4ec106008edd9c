// Has COUNT children one after the other (`family COUNT`). Child i makes two calls that are known, getpgid(FIRST + i) and
// getpgid(SECOND + i), which fail, and ends with exit code i: those with an even number make the second one in a thread, the
// others in another program.

#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FIRST = 100000000, SECOND = 200000000 };

static void *second(void *number) {
	getpgid(SECOND + *(int *)number);
	return NULL;
}

static void child(char *self, int i) {
	getpgid(FIRST + i);
	if (i % 2 == 1) {
		char text[16];
		snprintf(text, sizeof text, "%d", i);
		execl(self, self, "second", text, NULL);
		_exit(126);
	}
	pthread_t thread;
	if (pthread_create(&thread, NULL, second, &i) != 0)
		_exit(125);
	pthread_join(thread, NULL);
	_exit(i);
}

int main(int argc, char **argv) {
	if (argc == 3 && strcmp(argv[1], "second") == 0) {
		int i = atoi(argv[2]);
		getpgid(SECOND + i);
		return i;
	}
	int count = argc == 2 ? atoi(argv[1]) : 0;
	for (int i = 0; i < count; i++) {
		pid_t pid = fork();
		if (pid == 0)
			child(argv[0], i);
		if (pid < 0 || waitpid(pid, NULL, 0) != pid) {
			perror("family");
			return 1;
		}
	}
	return 0;
}
