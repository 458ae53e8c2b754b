"""Which request runs where and when: queues as state without IO, and the shell that feeds instances from them."""
