"""`anonymousnet cluster validate`: what is wrong with cluster files, by file and line, without a cluster."""
