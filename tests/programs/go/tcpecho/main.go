// Tcpecho is a TCP server that sends back what it gets, and its clients. Every byte is checked.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"programs/window"
)

func windowBegin() {}
func windowEnd()   {}

func echo(connection net.Conn, done *sync.WaitGroup) {
	defer done.Done()
	defer connection.Close()
	if _, err := io.Copy(connection, connection); err != nil {
		window.Fail(err)
	}
}

// serve answers n connections.
func serve(listener net.Listener, n int, done *sync.WaitGroup) {
	defer done.Done()
	for i := 0; i < n; i++ {
		connection, err := listener.Accept()
		if err != nil {
			window.Fail(err)
		}
		done.Add(1)
		go echo(connection, done)
	}
}

// talk sends messages of growing length over one connection and reads each back. In between it
// pauses, and lets a read run into its deadline.
func talk(address string, rounds int, done *sync.WaitGroup) {
	defer done.Done()
	connection, err := net.Dial("tcp", address)
	if err != nil {
		window.Fail(err)
	}
	for i := 0; i < rounds; i++ {
		message := bytes.Repeat([]byte{byte(i)}, 1+i*37%5000)
		if _, err := connection.Write(message); err != nil {
			window.Fail(err)
		}
		answer := make([]byte, len(message))
		if _, err := io.ReadFull(connection, answer); err != nil {
			window.Fail(err)
		}
		if !bytes.Equal(message, answer) {
			window.Fail(fmt.Errorf("message %d came back changed", i))
		}
		if i%50 == 0 {
			expire(connection)
		}
	}
	if err := connection.Close(); err != nil {
		window.Fail(err)
	}
}

// expire reads when nothing comes, until a deadline.
func expire(connection net.Conn) {
	if err := connection.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		window.Fail(err)
	}
	if n, err := connection.Read(make([]byte, 1)); n != 0 || err == nil {
		window.Fail(fmt.Errorf("read %d bytes that nobody sent", n))
	}
	if err := connection.SetReadDeadline(time.Time{}); err != nil {
		window.Fail(err)
	}
}

func run(clients, rounds int) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		window.Fail(err)
	}
	var done sync.WaitGroup
	done.Add(1 + clients)
	go serve(listener, clients, &done)
	for i := 0; i < clients; i++ {
		go talk(listener.Addr().String(), rounds, &done)
	}
	done.Wait()
	if err := listener.Close(); err != nil {
		window.Fail(err)
	}
}

func main() {
	clients := flag.Int("c", 4, "clients")
	rounds := flag.Int("rounds", 700, "messages of each")
	file := flag.String("trace", "", "write an execution trace to this file")
	flag.Parse()

	window.Run(*file, windowBegin, windowEnd, func() { run(*clients, *rounds) })
	fmt.Printf("messages=%d\n", *clients**rounds)
}
