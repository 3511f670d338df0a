"""The bodies of the commands: what ``flows.cli`` promises is done here.

A module holds what needs the same libraries, and a command imports its body only when it is run: so
``--help`` answers at once, and an online read does not wait for Great Expectations.
"""
