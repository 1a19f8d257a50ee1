"""Samples the machine with MLflow's own monitors. Runs in a thread of the writer process, whose end harms nothing."""

from __future__ import annotations

import os
import queue
import socket
import threading

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from rayloom.tracking.journal import now_ms
from rayloom.tracking.writer.mlflow_store import MetricPoint

_FIRST_SAMPLE_S = 1.0
_STOP_DEADLINE_S = 5.0


class SystemSampler:
    """Collects CPU, memory, disk, network and GPU use as points that the writer sends with the others.

    MLflow's monitor would send them itself, but it stops for good at the first call that fails.
    """

    def __init__(self, uri: str, run_id: str, start_ms: int) -> None:
        """Start sampling; `start_ms` is the first start of the run, from which the steps count (unit: seconds)."""
        self._uri = uri
        self._run_id = run_id
        self._start_ms = start_ms
        self._interval_s = float(os.environ.get("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL") or 10.0)
        self._points: queue.SimpleQueue[MetricPoint] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="system-metrics")
        self._thread.start()

    def take(self) -> list[MetricPoint]:
        """Return the points that came since the last call."""
        points = []
        while not self._points.empty():
            points.append(self._points.get_nowait())
        return points

    def stop(self) -> None:
        """Take a last sample and end the thread. Idempotent."""
        self._stop.set()
        self._thread.join(_STOP_DEADLINE_S)

    def _run(self) -> None:
        # An exception ends this thread only, with its traceback in writer.log.
        monitor = SystemMetricsMonitor(self._run_id, node_id=socket.gethostname(), tracking_uri=self._uri)
        monitor.collect_metrics()  # CPU use is measured since the call before
        stopped = self._stop.wait(_FIRST_SAMPLE_S)
        while True:
            self._sample(monitor)
            if stopped:
                return
            stopped = self._stop.wait(self._interval_s)

    def _sample(self, monitor: SystemMetricsMonitor) -> None:
        monitor.collect_metrics()
        time_ms = now_ms()
        step = max(0, (time_ms - self._start_ms) // 1000)
        for name, value in monitor.aggregate_metrics().items():
            self._points.put((f"system/{monitor.node_id}/{name}", float(value), time_ms, step))
        for single in monitor.monitors:
            single.clear_metrics()
