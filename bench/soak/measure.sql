-- What a process of the server has for itself, as the kernel and the server
-- tell it.
--
-- Memory is "Anonymous" of smaps_rollup: heap, stack and changed pages, but not
-- shared memory, of which a process only seems to get more the more pages it
-- has seen.

CREATE SCHEMA IF NOT EXISTS bench;
CREATE UNLOGGED TABLE bench.memory (n serial, what text, times bigint, private_kb bigint, peak_rss_kb bigint, files bigint, others bigint, context_kb bigint);

-- Descriptors of files, which the server opens and closes as it sees fit, and
-- others: sockets, epoll sets, pipes.  The kernel marks what open() gave with
-- O_LARGEFILE, the sixth octal digit.
CREATE FUNCTION bench.fds(p_pid text, OUT files bigint, OUT others bigint) LANGUAGE sql VOLATILE
    AS $$
    SELECT count(*) FILTER (WHERE i.flags ~ '[1357]\d{5}$'), count(*) FILTER (WHERE i.flags !~ '[1357]\d{5}$')
      FROM pg_ls_dir('/proc/' || p_pid || '/fd') AS fd,
   LATERAL (SELECT substring(pg_read_file('/proc/' || p_pid || '/fdinfo/' || fd, 0, 10000, true) FROM '(?n)^flags:\s+(\d+)$')) AS i (flags)
$$;

-- p_pid: "self", or the number of another process of this server.
CREATE FUNCTION bench.proc_kb(p_pid text, p_file text, p_key text) RETURNS bigint LANGUAGE sql VOLATILE
    AS $$ SELECT substring(pg_read_file('/proc/' || p_pid || '/' || p_file) FROM '(?n)^' || p_key || ':\s+(\d+) kB')::bigint $$;

CREATE FUNCTION bench.note(p_what text, p_times bigint, p_pid text DEFAULT 'self', p_context_kb bigint DEFAULT NULL) RETURNS void LANGUAGE sql VOLATILE
    AS $$
    INSERT INTO bench.memory (what, times, private_kb, peak_rss_kb, files, others, context_kb)
    SELECT p_what, p_times, bench.proc_kb(p_pid, 'smaps_rollup', 'Anonymous'), bench.proc_kb(p_pid, 'status', 'VmHWM'),
           f.files, f.others, coalesce(p_context_kb, (SELECT sum(total_bytes) / 1024 FROM pg_backend_memory_contexts))
      FROM bench.fds(p_pid) AS f
$$;

CREATE VIEW bench.memory_report AS
    SELECT what, times, round(private_kb / 1024.0, 2) AS private_mib, round(context_kb / 1024.0, 2) AS contexts_mib, others AS sockets, files, round(peak_rss_kb / 1024.0, 1) AS peak_rss_mib
      FROM bench.memory ORDER BY n;
