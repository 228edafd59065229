"""What any program of ours does: read its settings, say one sentence where it cannot go on, write where others read.

Whoever starts a program wrongly gets one sentence and exit code 2, never a traceback. Read `startup` first, then
`settings` and `output`.

`importing` is the first import of every program and must stay cheap. `output` takes the place of stdout for the life
of a program: whoever writes elsewhere loses what it promises about full disks and closed pipes.
"""
