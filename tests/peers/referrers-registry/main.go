// SPDX-FileCopyrightText: The edgeprov authors
// SPDX-License-Identifier: Apache-2.0

// Command referrers-registry serves an in-memory registry with the referrers API of OCI distribution 1.1, which
// distribution v3 and Debian's docker-registry lack. It prints its address and serves until standard input closes.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/google/go-containerregistry/pkg/registry"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(listener.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	quiet := log.New(io.Discard, "", 0)
	handler := registry.New(registry.WithReferrersSupport(true), registry.Logger(quiet))
	server := &http.Server{Handler: handler, ErrorLog: quiet} //nolint:gosec // loopback, for tests
	fmt.Fprintln(os.Stderr, server.Serve(listener))
}
