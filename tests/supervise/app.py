#!/usr/bin/env python3
"""A stand-in for the app: writes what happens to it into the file it is told, and ends as told.

    app.py DID [fail=CODE] [code=CODE] [deaf] [asks=URL] [storm] [escape] [orphan]

`asks`: on SIGTERM it asks the URL, reads the answer to its end, and only then leaves, as a server
that drains does.
"""
import os
import resource
import signal
import sys
import urllib.request

DID, WORDS = sys.argv[1], dict((word + "=").split("=", 2)[:2] for word in sys.argv[2:])


def did(what):
    with open(DID, "a") as file:
        file.write(f"{what}\n")


def end(number, _):
    did(signal.Signals(number).name)
    if "asks" in WORDS:
        with urllib.request.urlopen(WORDS["asks"], timeout=30) as answer:
            did(f"answer {answer.status} {len(answer.read())}")
    if "deaf" not in WORDS:
        sys.exit(int(WORDS.get("code", "3")))


def note(number, _):
    did(signal.Signals(number).name)


for ends in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
    signal.signal(ends, end)
for heard in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(heard, note)
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
own_group = os.getpgrp() == os.getpid()
secret = "with" if "TS_AUTHKEY" in os.environ else "without"
did(f"started {os.getpid()} limit {limit} group {own_group} {secret} key")
if "fail" in WORDS:
    sys.exit(int(WORDS["fail"]))
if "storm" in WORDS:
    # Strangers without end.
    while True:
        if os.fork() == 0:
            os.fork()
            os._exit(0)
        os.wait()
if "escape" in WORDS:
    # Somebody in a session of its own who hears nothing.
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            did(f"escaped {os.getpid()}")
            while True:
                signal.pause()
        os._exit(0)
    os.wait()
if "orphan" in WORDS:
    # A grandchild whose parent is gone: it comes to tailhop, and ends there.
    if os.fork() == 0:
        if os.fork() == 0:
            did(f"orphan {os.getpid()}")
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
            signal.pause()
        os._exit(0)
    os.wait()
while True:
    signal.pause()
