"""routes.toml as frozen data. Imports nothing above: stores, http, errors, patterns and below are allowed.

load          a file or a mapping -> Config, or ConfigError with every problem at once
document      Config, and the tables of the file taken together
server        [server], [admin], [cache]
upstreams     [upstreams.NAME]
routes        [[routes]] and [defaults]: conditions, actions, how a request goes out
policies      what a route applies to requests and responses
access        who may use a route
addresses     where to listen, endpoint URLs taken apart, URLs of stores and services
values        names, networks, header values and other strings with a form of their own
units         durations and sizes
table         what all tables share: strictness, `false` or a table, one or a list
environ       ${NAME} in strings
validation    a piece of the file against its table, every error in words
merge         defaults, names of routes, upstreams written in place
checks        what only several tables together can tell; conditions, templates and files are its parts
availability  keys of the contract that are not built yet
extras        optional dependencies
problems      a problem and its place
positions     where a key stands in the file; imported only when there is a problem
json_schema   the schema for editors
"""
