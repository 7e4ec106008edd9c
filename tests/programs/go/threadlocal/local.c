// Thread-local variables beside which the linker must find room for Go's.
static __thread int calls = 1;
static __thread char buffer[200];

int count(void) {
	buffer[calls % 200]++;
	return calls++;
}
