"""`python -m orchestrator.cli`: what the program `outrider` runs."""

from orchestrator.cli.commands import main

if __name__ == "__main__":
    main()
