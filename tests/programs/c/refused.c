// Calls that the kernel does not make: `refused errno|path|trap|kill|thread|strict|notify|dispatch`.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif

enum { CALLS = 10, WAIT_MS = 50, ARGUMENT = 4711, ANSWER = 42 };

static void need(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

// Lets this thread make all calls but this one; returns the listener if `flags` ask for one.
static int forbid(long call, unsigned action, unsigned flags)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
	need(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
	int result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
	need(result >= 0, "seccomp");
	return result;
}

static void call(int times)
{
	for (int i = 0; i < times; i++)
		syscall(SYS_getpgid, ARGUMENT);
}

static void on_signal(int signal)
{
	(void)signal;
}

static void *killed(void *arg)
{
	forbid(SYS_getpgid, SECCOMP_RET_KILL_THREAD, 0);
	call(1);
	return arg;
}

static volatile int listener = -1;

static void *asks(void *arg)
{
	listener = forbid(SYS_getpgid, SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER);
	need(syscall(SYS_getpgid, ARGUMENT) == ANSWER, "the answer");
	return arg;
}

static void answer(void)
{
	struct timespec wait = {0, WAIT_MS * 1000000L};
	struct seccomp_notif asked;
	memset(&asked, 0, sizeof asked);
	need(!ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked), "receive");
	nanosleep(&wait, NULL);
	struct seccomp_notif_resp answer = {.id = asked.id, .val = ANSWER};
	need(!ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer), "send");
}

int main(int argc, char **argv)
{
	const char *how = argc == 2 ? argv[1] : "";
	pthread_t thread;
	signal(SIGSYS, on_signal);
	if (!strcmp(how, "errno")) {
		forbid(SYS_getpgid, SECCOMP_RET_ERRNO | EPERM, 0);
		call(CALLS);
	} else if (!strcmp(how, "path")) {
		int fd = open("/", O_DIRECTORY);
		forbid(SYS_mkdirat, SECCOMP_RET_ERRNO | EPERM, 0);
		mkdirat(fd, "refused", 0);
	} else if (!strcmp(how, "trap")) {
		forbid(SYS_getpgid, SECCOMP_RET_TRAP, 0);
		call(CALLS);
	} else if (!strcmp(how, "kill")) {
		forbid(SYS_getpgid, SECCOMP_RET_KILL_PROCESS, 0);
		call(1);
	} else if (!strcmp(how, "thread")) {
		need(!pthread_create(&thread, NULL, killed, NULL), "thread");
		pthread_join(thread, NULL);
	} else if (!strcmp(how, "strict")) {
		need(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT), "strict");
		call(1);
	} else if (!strcmp(how, "notify")) {
		need(!pthread_create(&thread, NULL, asks, NULL), "thread");
		while (listener < 0)
			sched_yield();
		answer();
		pthread_join(thread, NULL);
	} else if (!strcmp(how, "dispatch")) {
		static volatile char selector;
		need(!prctl(PR_SET_SYSCALL_USER_DISPATCH, 1, 0, 0, &selector), "dispatch");
		// The return from the signal handler is refused, too, and not forgiven.
		selector = 1;
		call(1);
	} else {
		return 1;
	}
	return 0;
}
