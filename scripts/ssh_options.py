"""Print the options for every ssh to a builder's host, quoted for a shell.

Usage: ssh_options.py HOST_KEY
"""

import shlex
import sys

from components.docker_host import DockerHost

if __name__ == "__main__":
    print(shlex.join(DockerHost("ssh://", sys.argv[1]).ssh_options))
