# A 32-bit program: writes "hi", sleeps for 20 ms and ends with 5.

	.globl _start
_start:
	movl	$4, %eax		# write
	movl	$1, %ebx
	movl	$text, %ecx
	movl	$3, %edx
	int	$0x80
	movl	$162, %eax		# nanosleep
	movl	$time, %ebx
	xorl	%ecx, %ecx
	int	$0x80
	movl	$1, %eax		# exit
	movl	$5, %ebx
	int	$0x80

	.data
text:	.ascii	"hi\n"
	.balign	4
time:	.long	0, 20000000
	.section .note.GNU-stack, "", @progbits
