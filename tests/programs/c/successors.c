// Runs another program in its place, which does the same with one less: `successors N MILLISECONDS SELF OTHER FILE`.
// The last one writes FILE, and returns 9.
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv) {
	if (argc != 6)
		return 2;
	int left = atoi(argv[1]);
	if (left <= 0) {
		FILE *file = fopen(argv[5], "w");
		return file && fclose(file) == 0 ? 9 : 3;
	}
	usleep(1000 * atoi(argv[2]));
	char number[16];
	snprintf(number, sizeof number, "%d", left - 1);
	execl(argv[4], argv[4], number, argv[2], argv[4], argv[3], argv[5], (char *)0);
	return 1;
}
