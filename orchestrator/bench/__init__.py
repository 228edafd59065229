"""What `outrider bench` measures, and how it compares: our services and peers, in turns, on the same prompts.

Read `bench` first: what one run is and what is kept of it. `halving` says which settings run again, `comparison` what
is faster and what is noise. What can be measured is in `systems`. Where the time of cycles went is `anatomy`, from the
spans of the services, which `spans` receives and keeps in files.
"""
