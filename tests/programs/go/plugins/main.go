// Plugins opens a plugin and has it play: its goroutines start in functions that the program itself does not have.
package main

import (
	"flag"
	"fmt"
	"os"
	"plugin"
	"time"
)

func main() {
	path := flag.String("plugin", "", "the plugin's file")
	rounds := flag.Int("n", 500, "how many balls to play")
	forever := flag.Bool("forever", false, "play again and again")
	flag.Parse()

	opened, err := plugin.Open(*path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	symbol := func(name string) plugin.Symbol {
		found, err := opened.Lookup(name)
		if err != nil {
			panic(err)
		}
		return found
	}
	go symbol("Park").(func())()
	play := symbol("Play").(func(int) int)
	fmt.Println("ready")
	sum := play(*rounds)
	for *forever {
		play(*rounds)
		time.Sleep(time.Millisecond)
	}
	fmt.Printf("sum=%d\n", sum)
}
