"""State that may be shared between processes. May import gateway.http.

base     what a store of answers has to do; entries and purges
memory   in this process, bounded by bytes
redis    in Redis or Valkey, for workers and machines together
"""
