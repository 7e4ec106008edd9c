// Httpload is an HTTP server and its clients in one process. Every response is checked.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"programs/window"
)

func windowBegin() {}
func windowEnd()   {}

// double answers with twice the number in the query.
func double(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseUint(r.URL.Query().Get("n"), 10, 32)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	served.Add(1)
	fmt.Fprintf(w, "%d\n", 2*n)
}

var served, requests, wrong atomic.Uint64

// ask sends one request and says whether the answer was right.
func ask(client *http.Client, url string, n uint64) error {
	response, err := client.Get(url + strconv.FormatUint(n, 10))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("%d\n", 2*n); response.StatusCode != http.StatusOK || string(body) != want {
		return fmt.Errorf("asked for %d, got status %d and %q", n, response.StatusCode, body)
	}
	return nil
}

// client asks one question after another, with pauses in between, until it is told to stop.
func client(url string, first uint64, pause time.Duration, stop <-chan struct{}, done *sync.WaitGroup) {
	defer done.Done()
	transport := &http.Transport{MaxIdleConnsPerHost: 1}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	for n := first; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		requests.Add(1)
		if err := ask(c, url, n%(1<<31)); err != nil {
			wrong.Add(1)
			fmt.Fprintln(os.Stderr, "error:", err)
		}
		if pause > 0 {
			time.Sleep(pause)
		}
	}
}

func main() {
	d := flag.Duration("d", 0, "how long; 0 is until SIGTERM or SIGINT")
	clients := flag.Int("c", 4, "clients; 0 only serves")
	pause := flag.Duration("pause", 0, "pause of each client between two requests")
	address := flag.String("addr", "127.0.0.1:0", "address to listen at")
	progress := flag.Duration("progress", 0, "print how much is done so often; 0 is never")
	file := flag.String("trace", "", "write an execution trace to this file")
	flag.Parse()

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		window.Fail(err)
	}
	fmt.Printf("listening=%s pid=%d\n", listener.Addr(), os.Getpid())
	if *progress > 0 {
		go window.Progress(*progress, served.Load)
	}
	window.Run(*file, windowBegin, windowEnd, func() { load(listener, *clients, *pause, *d, signals) })
	fmt.Printf("served=%d requests=%d errors=%d\n", served.Load(), requests.Load(), wrong.Load())
	if wrong.Load() != 0 {
		os.Exit(1)
	}
}

// load serves, and asks with n clients that pause between requests, until d has passed or a signal comes.
func load(listener net.Listener, n int, pause, d time.Duration, signals <-chan os.Signal) {
	mux := http.NewServeMux()
	mux.HandleFunc("/double", double)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 30 * time.Second}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			window.Fail(err)
		}
	}()

	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Add(n)
	url := fmt.Sprintf("http://%s/double?n=", listener.Addr())
	for i := 0; i < n; i++ {
		go client(url, uint64(i)<<20, pause, stop, &done)
	}

	var timeout <-chan time.Time
	if d > 0 {
		timeout = time.After(d)
	}
	select {
	case <-timeout:
	case <-signals:
	}
	close(stop)
	done.Wait()
	if err := server.Close(); err != nil {
		window.Fail(err)
	}
	<-closed
}
