"""Print what pyproject.toml requires, and what extras add: dependencies are installed before the project is there.

Usage: requirements.py [EXTRA...]
"""

import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
for requirements in (project["dependencies"], *(project["optional-dependencies"][extra] for extra in sys.argv[1:])):
    print(*requirements, sep="\n")
