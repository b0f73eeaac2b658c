-- Stages the pages of the files named FEED.1, FEED.2 ... in :directory, one
-- transaction a page, and notes in bench.result what each feed cost.
-- CPU is the backend's own, from the kernel's scheduler (nanoseconds).

CREATE SCHEMA bench;
CREATE UNLOGGED TABLE bench.result (what text, pages integer, rows bigint, bytes bigint, cpu_s numeric, wall_s numeric, n serial);
CREATE FUNCTION bench.cpu() RETURNS bigint LANGUAGE sql VOLATILE
    AS $$ SELECT split_part(pg_read_file('/proc/self/schedstat'), ' ', 1)::bigint $$;

CREATE PROCEDURE bench.stage(p_what text, p_division integer, p_feed text, p_directory text, p_repeat boolean DEFAULT false) LANGUAGE plpgsql
    AS $$
DECLARE
    v_run    bigint := exact_pd_sync._run_begin('bench');
    v_body   text;
    v_page   record;
    v_cpu    bigint;
    v_cpus   bigint := 0;
    v_at     timestamptz;
    v_wall   interval := '0';
    v_rows   bigint := 0;
    v_bytes  bigint := 0;
    n        integer := 0;
BEGIN
    LOOP
        v_body := pg_read_file(p_directory || '/' || p_feed || '.' || n + 1, 0, 1000000000, true);
        EXIT WHEN v_body IS NULL;
        n := n + 1;
        PERFORM exact_pd_sync._feed_next(p_division, p_feed, v_run);
        COMMIT;
        v_cpu := bench.cpu();
        v_at := clock_timestamp();
        SELECT * INTO v_page FROM exact_pd_sync._stage_page(p_division, p_feed, v_run, v_body);
        COMMIT;
        v_wall := v_wall + (clock_timestamp() - v_at);
        v_cpus := v_cpus + bench.cpu() - v_cpu;
        IF v_page.refused > 0 THEN
            RAISE EXCEPTION '% rows of page % of feed % were refused', v_page.refused, n, p_feed;
        END IF;
        v_rows := v_rows + v_page.taken;
        v_bytes := v_bytes + octet_length(v_body);
    END LOOP;
    INSERT INTO bench.result (what, pages, rows, bytes, cpu_s, wall_s)
    VALUES (p_what, n, v_rows, v_bytes, v_cpus / 1e9, extract(epoch FROM v_wall));
    PERFORM exact_pd_sync._run_end(v_run, NULL);
END
$$;

-- The measure: the same rows as text for COPY, a thousand a file.
CREATE PROCEDURE bench.write_rows(p_directory text, p_table text) LANGUAGE plpgsql
    AS $$
DECLARE
    v_rows bigint;
    n      bigint := 0;
BEGIN
    EXECUTE format('CREATE TABLE bench.rows AS SELECT row_number() OVER (ORDER BY timestamp, id) - 1 AS n, t AS r FROM exact_pd_sync.%I t', p_table);
    CREATE INDEX ON bench.rows (n);
    ANALYZE bench.rows;
    SELECT count(*) INTO v_rows FROM bench.rows;
    WHILE n < v_rows LOOP
        EXECUTE format('COPY (SELECT (r).* FROM bench.rows WHERE n >= %s AND n < %s ORDER BY n) TO %L', n, n + 1000, p_directory || '/copy.' || n / 1000 + 1);
        n := n + 1000;
    END LOOP;
    DROP TABLE bench.rows;
END
$$;

-- COPY into a temporary table, then INSERT ... ON CONFLICT DO UPDATE into a table with the same indexes, without triggers.
CREATE PROCEDURE bench.copy_upsert(p_what text, p_directory text, p_table text) LANGUAGE plpgsql
    AS $$
DECLARE
    v_upsert text;
    v_size   bigint;
    v_cpu    bigint;
    v_cpus   bigint := 0;
    v_at     timestamptz;
    v_wall   interval := '0';
    v_count  bigint;
    v_rows   bigint := 0;
    v_bytes  bigint := 0;
    n        integer := 0;
BEGIN
    DROP TABLE IF EXISTS bench.target, incoming;
    EXECUTE format('CREATE TABLE bench.target (LIKE exact_pd_sync.%I INCLUDING ALL)', p_table);
    EXECUTE format('CREATE TEMPORARY TABLE incoming (LIKE exact_pd_sync.%I)', p_table);
    SELECT 'INSERT INTO bench.target SELECT * FROM incoming ON CONFLICT (division, id) DO UPDATE SET '
           || string_agg(format('%I = excluded.%I', a.attname, a.attname), ', ') INTO v_upsert
      FROM pg_attribute a WHERE a.attrelid = 'bench.target'::regclass AND a.attnum > 0 AND a.attname NOT IN ('division', 'id');
    COMMIT;
    LOOP
        v_size := (pg_stat_file(p_directory || '/copy.' || n + 1, true)).size;
        EXIT WHEN v_size IS NULL;
        n := n + 1;
        v_cpu := bench.cpu();
        v_at := clock_timestamp();
        TRUNCATE incoming;
        EXECUTE format('COPY incoming FROM %L', p_directory || '/copy.' || n);
        EXECUTE v_upsert;
        GET DIAGNOSTICS v_count = ROW_COUNT;
        COMMIT;
        v_wall := v_wall + (clock_timestamp() - v_at);
        v_cpus := v_cpus + bench.cpu() - v_cpu;
        v_rows := v_rows + v_count;
        v_bytes := v_bytes + v_size;
    END LOOP;
    INSERT INTO bench.result (what, pages, rows, bytes, cpu_s, wall_s)
    VALUES (p_what, n, v_rows, v_bytes, v_cpus / 1e9, extract(epoch FROM v_wall));
END
$$;
