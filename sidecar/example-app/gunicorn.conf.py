"""How gunicorn serves the app in a container.

gunicorn's own 30 s kill a worker in the middle of a cold model load; threads do not block each
other, and a container has one CPU or two.
"""

import os

bind = f"0.0.0.0:{os.environ.get('PORT') or 8080}"
worker_class = "gthread"
workers = 1
threads = 16
timeout = 300
# A container has 10 s between SIGTERM and SIGKILL, and tailhop and tailscaled end after the app.
graceful_timeout = 7
# The heartbeat file of a worker; the root file system may be read-only.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None
control_socket_disable = True
accesslog = "-"
