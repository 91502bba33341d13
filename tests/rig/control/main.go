// Program control is the rig's tailnet service: a control server, a relay (DERP) and a STUN
// server in one process, on one address, for nodes that must not touch any other.
//
// It owns nothing on disk: a restart forgets every node.
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"

	"tailscale.com/derp/derpserver"
	"tailscale.com/net/stunserver"
	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/key"
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
	derpPort, err := serveRelay(host, logf)
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
	return http.Serve(ln, controlServer(ln.Addr().String(), host, derpPort, stunPort, logf))
}

func controlServer(addr, host string, derpPort, stunPort int, logf logger.Logf) http.Handler {
	control := &testcontrol.Server{
		Logf:             logf,
		ExplicitBaseURL:  "http://" + addr,
		DERPMap:          derpMap(host, derpPort, stunPort),
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

// serveRelay starts a DERP server behind TLS with a throw-away certificate; InsecureForTests in
// the map makes the nodes accept it.
func serveRelay(host string, logf logger.Logf) (port int, err error) {
	ln, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return 0, err
	}
	srv := httptest.NewUnstartedServer(derpserver.Handler(derpserver.New(key.NewNode(), logf)))
	srv.Listener.Close()
	srv.Listener = ln
	srv.Config.ErrorLog = logger.StdLogger(logf)
	// A non-nil empty map keeps HTTP/2 off: DERP takes the connection over.
	srv.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	srv.StartTLS()
	return ln.Addr().(*net.TCPAddr).Port, nil
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
