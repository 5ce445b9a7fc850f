//! Control groups: hierarchy detection (v1, v2, hybrid), settings as a plan, apply, statistics.
