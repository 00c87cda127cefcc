"""The whole of callscribe on one machine, without root, docker or a compiler."""
