"""What `outrider bench` measures, and how it compares: our services and peers, in turns, on the same prompts.

Read `course` first: a whole bench from its start to its end. `systems` is what can be measured, `load` what is asked of
it, `measuring` how, `results` what comes of it. Where the time of cycles went is `anatomy`, from the spans of our
services, which `spans` receives and keeps in files.
"""
