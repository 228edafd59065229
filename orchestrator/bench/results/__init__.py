"""What runs come to: counts of one run, comparisons of many, and how they are told. Pure but for the picture.

Read `comparison` first: it says which rounds choose a setting, which compare it, and what is noise.
"""
