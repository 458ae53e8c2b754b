"""What ``tritonfrontend`` exports, module by module."""
