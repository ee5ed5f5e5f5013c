"""The commands of ``sdejax``, one a file: ``add`` declares its arguments, ``run`` does its work.

A new command is one such file and one row in ``sdejax.cli.COMMANDS``.
"""
