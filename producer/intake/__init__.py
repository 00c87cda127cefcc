"""What examines untrusted files: probes, decodes, scans, copies and plans them."""
