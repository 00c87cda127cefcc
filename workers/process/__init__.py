"""What keeps a worker's processes alive on Celery: messages, leases, memory, metrics and logs."""
