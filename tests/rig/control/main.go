// Program control is the rig's tailnet service: a control server, a relay (DERP) and a STUN
// server in one process, on one address, for nodes that must not touch any other.
//
// It owns nothing on disk: a restart forgets every node.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"strconv"
	"time"

	"tailscale.com/net/stunserver"
	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/logger"
)

const magicDNSDomain = "rig.ts.net"

func main() {
	listen := flag.String("listen", "127.0.0.1:9911", "address of the control server; relay and STUN take a free port on the same IP")
	verbose := flag.Bool("verbose", false, "log what the control server does")
	flag.Parse()

	logf := logger.Discard
	if *verbose {
		logf = log.Printf
	}
	if err := run(*listen, logf); err != nil {
		log.Fatal(err)
	}
}

func run(listen string, logf logger.Logf) error {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return err
	}
	relay, err := newRelay(host, logf)
	if err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	stunPort, err := serveSTUN(host)
	if err != nil {
		return fmt.Errorf("STUN: %w", err)
	}
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	// The one line on standard output is the sign that every listener is bound.
	fmt.Printf("ready http://%s\n", ln.Addr())
	return http.Serve(ln, controlServer(ln.Addr().String(), host, relay, stunPort, logf))
}

func controlServer(addr, host string, relay *relay, stunPort int, logf logger.Logf) http.Handler {
	control := &testcontrol.Server{
		Logf:             logf,
		ExplicitBaseURL:  "http://" + addr,
		DERPMap:          derpMap(host, relay.port(), stunPort),
		MagicDNSDomain:   magicDNSDomain,
		DNSConfig:        &tailcfg.DNSConfig{Proxied: true, Domains: []string{magicDNSDomain}},
		AllNodesSameUser: true,
		// A real control server keeps saying "online" for a Mac that fell asleep a moment ago.
		AllOnline: true,
	}
	mux := http.NewServeMux()
	// Nodes ask this to find out whether a captive portal stands between them and the world.
	mux.HandleFunc("/generate_204", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
	})
	// For tests: the relay is gone for `pause`, then back. Nodes never ask this.
	mux.HandleFunc("POST /rig/restart-relay", func(w http.ResponseWriter, r *http.Request) {
		pause, err := time.ParseDuration(r.FormValue("pause"))
		if err == nil {
			err = relay.restart(pause)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.Handle("/", control)
	return mux
}

func derpMap(host string, derpPort, stunPort int) *tailcfg.DERPMap {
	node := &tailcfg.DERPNode{
		Name:             "rig1",
		RegionID:         1,
		HostName:         host,
		IPv4:             host,
		IPv6:             "none",
		DERPPort:         derpPort,
		STUNPort:         stunPort,
		STUNTestIP:       host,
		InsecureForTests: true,
	}
	region := &tailcfg.DERPRegion{RegionID: 1, RegionCode: "rig", Nodes: []*tailcfg.DERPNode{node}}
	return &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{1: region}}
}

func serveSTUN(host string) (port int, err error) {
	srv := stunserver.New(context.Background())
	if err := srv.Listen(net.JoinHostPort(host, "0")); err != nil {
		return 0, err
	}
	go func() { log.Fatal(srv.Serve()) }()
	_, text, err := net.SplitHostPort(srv.LocalAddr().String())
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}
