"""The processes of `gridwatch up`, one file each; started as `python -m command.processes.<name>` by the supervisor.

Each reads its `Settings` from the environment, dies with its parent, and ends cleanly on SIGTERM.
"""
