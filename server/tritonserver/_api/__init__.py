"""What ``tritonserver`` exports, module by module as in the original."""
