// What the Go side of this program calls.
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "_cgo_export.h"

int64_t add(int64_t a, int64_t b) { return a + b; }

int64_t call_back(int64_t n) { return goCallback(n); }

static void *thread(void *argument) {
	int64_t *n = argument;
	*n = goCallback(*n);
	return NULL;
}

// The sum of what the callbacks answer, each from a thread of its own; -1 when there are no threads.
int64_t call_back_from_threads(int threads, int64_t n) {
	pthread_t *ids = calloc(threads, sizeof *ids);
	int64_t *numbers = calloc(threads, sizeof *numbers);
	int64_t sum = 0;
	int started = 0;
	for (; ids != NULL && numbers != NULL && started < threads; started++) {
		numbers[started] = n;
		if (pthread_create(&ids[started], NULL, thread, &numbers[started]) != 0) {
			break;
		}
	}
	for (int i = 0; i < started; i++) {
		pthread_join(ids[i], NULL);
		sum += numbers[i];
	}
	free(ids);
	free(numbers);
	return started == threads ? sum : -1;
}

int64_t block(int64_t microseconds) {
	usleep(microseconds);
	return microseconds;
}
