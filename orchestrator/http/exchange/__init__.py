"""What requests of every API have in common: read, refused, counted, generated for, and answered whole or as events.

Begin with `frame.py`, through which all of them pass. Nothing here knows the fields of one API.
"""
