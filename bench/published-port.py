#!/usr/bin/env python3
"""A published port beside the container's own: round trip and throughput, interleaved, medians of eleven rounds.

Usage, as root: bench/published-port.py FOLDER    (FOLDER has atoll and containerd-shim-atoll-v2; docker is in PATH)
The engine runs in a network namespace of its own; the host's links and tables are not touched.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROUNDS, PORT, OWN = 11, 9999, "192.0.2.1"


def enter(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    if libc.setns(descriptor, 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")


def serve(listener):
    def one(connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if connection.recv(1) == b"p":
            while data := connection.recv(64):
                connection.sendall(data)
        else:
            buffer = bytearray(1 << 20)
            while connection.recv_into(buffer):
                pass

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=one, args=(connection,), daemon=True).start()


def round_trip(at):
    with socket.create_connection(at) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"p")
        times = []
        for _ in range(3000):
            began = time.perf_counter()
            connection.sendall(b"x")
            connection.recv(1)
            times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2] * 1e6


def throughput(at):
    with socket.create_connection(at) as connection:
        connection.sendall(b"t")
        buffer, sent, began = bytes(1 << 18), 0, time.perf_counter()
        while time.perf_counter() - began < 0.3:
            sent += connection.send(buffer)
        return sent / (time.perf_counter() - began) / 1e6


def measure(address):
    ways = {"direct": (address, PORT), "127.0.0.1": ("127.0.0.1", 8080), "own address": (OWN, 8080)}
    trips = {name: [] for name in ways}
    rates = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, at in ways.items():
            trips[name].append(round_trip(at))
            rates[name].append(throughput(at))
    for name in ways:
        trip, rate = sorted(trips[name]), sorted(rates[name])
        middle = ROUNDS // 2
        print(f"{name}: {trip[middle]:.1f} us (min {trip[0]:.1f}), {rate[middle]:.0f} MB/s ({rate[0]:.0f}-{rate[-1]:.0f})")


def main():
    bin_folder = sys.argv[1]
    folder = tempfile.mkdtemp(prefix="atoll-port-")
    host = subprocess.Popen(["unshare", "--net", "sh", "-c", f"ip link set lo up; ip addr add {OWN}/32 dev lo; exec sleep 600"])
    time.sleep(0.5)
    inside = ["nsenter", f"--net=/proc/{host.pid}/ns/net", "--"]
    address = f"unix://{folder}/docker.sock"
    roots = ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "-H", address]
    with open(f"{folder}/log", "wb") as log:
        engine = subprocess.Popen([*inside, f"{bin_folder}/atoll", "engine", *roots], stdout=log, stderr=log)
    environment = {**os.environ, "DOCKER_HOST": address}

    def docker(*words, **more):
        return subprocess.run(["docker", *words], env=environment, check=True, capture_output=True, text=True, **more).stdout.strip()

    server = 0
    try:
        time.sleep(2)
        os.makedirs(f"{folder}/root/bin")
        shutil.copy("/bin/busybox", f"{folder}/root/bin/sleep")
        subprocess.run(["tar", "-C", f"{folder}/root", "-cf", f"{folder}/bb.tar", "."], check=True)
        docker("import", f"{folder}/bb.tar", "bb")
        container = docker("run", "-d", "-p", f"8080:{PORT}", "bb", "sleep", "600")
        pid = docker("inspect", "-f", "{{.State.Pid}}", container)
        own = docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", container)
        server = os.fork()
        if server == 0:
            enter(pid)
            listener = socket.create_server(("0.0.0.0", PORT))
            serve(listener)
        time.sleep(0.3)
        client = os.fork()
        if client == 0:
            enter(host.pid)
            measure(own)
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(client, 0)
        docker("rm", "-f", container)
    finally:
        if server:
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
        for process in (engine, host):
            process.terminate()
            process.wait()
        shutil.rmtree(folder)


main()
