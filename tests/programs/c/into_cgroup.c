// Runs a program COUNT times, each time in a process that is created in a control group: `into_cgroup FOLDER COUNT PROGRAM`.
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
	if (argc != 4)
		return 2;
	int group = open(argv[1], O_RDONLY | O_DIRECTORY);
	if (group < 0)
		return 3;
	for (int i = atoi(argv[2]); i > 0; i--) {
		struct clone_args args = {
			.flags = CLONE_INTO_CGROUP,
			.exit_signal = SIGCHLD,
			.cgroup = group,
		};
		pid_t pid = syscall(SYS_clone3, &args, sizeof args);
		if (pid < 0)
			return 4;
		if (pid == 0) {
			execl(argv[3], argv[3], (char *)0);
			_exit(5);
		}
		int status;
		if (waitpid(pid, &status, 0) != pid || status != 0)
			return 6;
	}
	return 0;
}
