"""The service as a process: started, broken, reloaded and ended under load. Crowds of clients, and soaks."""
