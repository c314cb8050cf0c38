// Command hello is the image localhost/kubernetes/hello of the kubernetes-node guest, for a first pod where no registry can be reached: on port 8080 it says
// which pod answers, and on which node.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
)

func main() {
	pod, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "hello from %s on %s\n", pod, os.Getenv("NODE"))
	})
	// what the cluster's DNS says
	http.HandleFunc("/resolve/", func(w http.ResponseWriter, r *http.Request) {
		addresses, err := net.LookupHost(strings.TrimPrefix(r.URL.Path, "/resolve/"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		fmt.Fprintln(w, strings.Join(addresses, " "))
	})
	// a body as large as asked for: what a wrong MTU loses
	http.HandleFunc("/large", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, strings.Repeat("x", 1<<20))
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
}
