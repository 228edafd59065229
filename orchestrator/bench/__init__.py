"""Measuring what this system is good for: what is seen of running services, and where the time of their cycles went.

Read `anatomy` first: its functions are pure, and say which parts a cycle has. `spans` receives what the services tell
of themselves, and keeps it in files.
"""
