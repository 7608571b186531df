"""Measurements that anyone can run. Never imported by the packages."""
