"""Headwater beside what its drivers can do alone, measured in the same run; docs/benchmarks.md tells what and why."""
