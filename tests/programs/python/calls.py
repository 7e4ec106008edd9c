"""Calls with files, pipes, sockets and timeouts. Waits for the file GATE, works in the folder PLACE, and
marks beginning and end by access("/begin") and access("/end")."""

import fcntl
import mmap
import os
import select
import socket
import sys
import threading
import time

gate, place = sys.argv[1], sys.argv[2]
while not os.path.exists(gate):
    time.sleep(0.01)
os.chdir(place)
os.access("/begin", os.F_OK)

def files():
    for i in range(20):
        name = f"file-{i}"
        with open(name, "w") as f:
            f.write("x" * i)
            f.flush()
            os.fsync(f.fileno())
            os.fstat(f.fileno())
        os.stat(name)
        os.rename(name, f"{name}.new")
        os.symlink(f"{name}.new", name)
        os.readlink(name)
        with open(name) as f:
            f.read()
        os.link(f"{name}.new", f"{name}.hard")
        os.unlink(f"{name}.hard")
        os.unlink(name)
        os.truncate(f"{name}.new", 3)
        os.chmod(f"{name}.new", 0o600)
    os.makedirs("a/b/c/d")
    here = os.open("a/b", os.O_RDONLY | os.O_DIRECTORY)
    os.mkdir("inner", dir_fd=here)
    inner = os.open("inner/f ä\n\"", os.O_CREAT | os.O_RDWR, dir_fd=here)
    os.write(inner, b"1")
    os.rename("a", "z")
    os.write(inner, b"2")
    os.unlink("z/b/inner/f ä\n\"")
    os.write(inner, b"3")
    copy = os.dup(inner)
    os.dup2(inner, 50)
    fcntl.fcntl(inner, fcntl.F_DUPFD_CLOEXEC, 60)
    for fd in (inner, copy, here, 50, 60):
        os.close(fd)
    os.listdir("z")
    for missing in ("/no/such/file", "file-0.new/x", ""):
        try:
            os.stat(missing)
        except OSError:
            pass
    for fd in (999, 5000000):
        try:
            os.fsync(fd)
        except OSError:
            pass
    with open("/proc/self/status") as f:
        f.read()
    with open("/dev/zero", "rb", buffering=0) as zero, open("/dev/null", "wb", buffering=0) as null:
        null.write(zero.read(100))
    with open("sparse", "w+b") as f:
        f.truncate(8192)
        mmap.mmap(f.fileno(), 8192).close()
    path = os.open("z", os.O_PATH)
    os.fstat(path)
    os.close(path)
    os.getcwd()
    os.chdir("z")
    os.getcwd()
    os.chdir("..")

def pipes():
    r, w = os.pipe()
    os.write(w, b"x")
    os.read(r, 10)
    os.set_blocking(r, False)
    try:
        os.read(r, 1)
    except BlockingIOError:
        pass
    os.mkfifo("fifo")
    fifo = os.open("fifo", os.O_RDWR)
    os.write(fifo, b"y")
    memory = os.memfd_create("memory")
    os.write(memory, b"z")
    event = os.eventfd(0)
    os.write(event, b"\1\0\0\0\0\0\0\0")
    poll = select.epoll()
    poll.register(event, select.EPOLLIN)
    poll.poll(0.01)
    poll.unregister(event)
    poll.register(r, select.EPOLLIN)
    poll.poll(0.01)
    select.select([r], [], [], 0.01)
    p = select.poll()
    p.register(r)
    p.poll(5)
    poll.close()
    for fd in (r, w, fifo, memory, event):
        os.close(fd)
    time.sleep(0.001)

def tcp(family, host):
    listener = socket.socket(family)
    listener.bind((host, 0))
    listener.listen()
    for _ in range(10):
        client = socket.socket(family)
        client.connect(listener.getsockname()[:2])
        server, _ = listener.accept()
        client.sendall(b"question")
        server.recv(100)
        server.sendall(b"answer")
        client.recv(100)
        client.getpeername()
        client.shutdown(socket.SHUT_WR)
        server.recv(100)
        client.close()
        server.close()
    gone = socket.socket(family)
    try:
        gone.connect((host, 1))
    except OSError:
        pass
    gone.close()
    listener.close()

def udp(family, host):
    one, other = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_DGRAM)
    one.bind((host, 0))
    to = one.getsockname()[:2]
    for _ in range(5):
        other.sendto(b"x", to)
        _, back = one.recvfrom(10)
        one.sendmsg([b"a", b"b"], [], 0, back[:2])
        other.recvmsg(10)
    one.close()
    other.close()

def unix():
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("socket")
    listener.listen()
    for _ in range(5):
        client = socket.socket(socket.AF_UNIX)
        client.connect("socket")
        server, _ = listener.accept()
        client.send(b"x")
        server.recv(1)
        client.close()
        server.close()
    listener.close()
    one, other = socket.socketpair()
    one.send(b"1")
    other.recv(1)
    named = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    named.bind("\0tracerd-test")
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.sendto(b"x", "\0tracerd-test")
    named.recvfrom(10)
    for s in (one, other, named, sender):
        s.close()
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    link.bind((0, 0))
    link.getsockname()
    link.close()

def everything():
    files()
    pipes()
    tcp(socket.AF_INET, "127.0.0.1")
    tcp(socket.AF_INET6, "::1")
    udp(socket.AF_INET, "127.0.0.1")
    udp(socket.AF_INET6, "::1")
    unix()

everything()
os.unlink("fifo")
threads = [threading.Thread(target=udp, args=(socket.AF_INET, "127.0.0.1")) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
os.access("/end", os.F_OK)
