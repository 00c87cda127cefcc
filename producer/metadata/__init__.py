"""What a call centre knows of its calls: manifests, sidecars and file names."""
