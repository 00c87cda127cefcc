"""Run ``producer`` as ``python -m producer``."""

from producer.cli.main import main

main()
