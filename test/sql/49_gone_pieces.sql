-- What a person deleted at Pipedrive holds back what is new and needs it, and
-- nothing else; replay() makes it anew, and who waited goes on.
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fixture :tests '/fixtures/company.sql'
\i :fixture

SELECT configure('list_lag', '0');
SELECT t.stage('accounts', t.account(1)), t.stage('items', t.item(1)), t.order(1, 1);
SELECT t.send();
SELECT t.send();
SELECT kind, pipedrive_id IS NOT NULL AS linked FROM links ORDER BY kind;
-- The customer and the article are deleted there; a change finds it out.
UPDATE links SET gone_at = now() WHERE kind IN ('organization', 'product');
INSERT INTO jobs (kind, division, exact_id, lane, priority, state, class, reason)
SELECT kind, division, exact_id, 4, 0, 'dead', 'ours', 'gone' FROM links WHERE gone_at IS NOT NULL;
-- The deal that is there goes on.
SELECT t.order(1, 1, '{"Status": 21, "InvoiceStatus": 21}');
SELECT t.fold();
SELECT call, body->>'status' AS status FROM t.take();
SELECT t.answer();
-- A new one waits for both.
SELECT t.order(2, 1);
SELECT t.fold();
SELECT count(*) AS calls FROM t.take();
SELECT state, reason FROM jobs WHERE kind = 'deal';
SELECT kind FROM job_needs ORDER BY kind;
SELECT kind, holds_back FROM dead_letters ORDER BY kind;
-- Made anew, and everybody follows.
SELECT replay(class => 'ours');
SELECT t.still_gone();
SELECT t.send();
SELECT t.send();
SELECT kind, state, reason FROM jobs;
SELECT count(*) AS deals, count(DISTINCT sent->'org_id') AS organizations,
       bool_and((sent->>'org_id')::bigint = (SELECT pipedrive_id FROM links WHERE kind = 'organization')) AS the_new_one FROM links WHERE kind = 'deal';
SELECT count(*) AS lines, count(DISTINCT product_id) AS products,
       bool_and(product_id = (SELECT pipedrive_id FROM links WHERE kind = 'product')) AS the_new_one FROM line_links;

-- Taken out of the bin before the replay: the record is used again, and none is made.
UPDATE links SET gone_at = now() WHERE kind = 'deal' AND exact_id = t.oid(2);
INSERT INTO jobs (kind, division, exact_id, lane, priority, state, class, reason) SELECT kind, division, exact_id, 4, 0, 'dead', 'ours', 'gone' FROM links WHERE gone_at IS NOT NULL;
SELECT replay(kind => 'deal');
SELECT t.fold();
SELECT path ~ ('&ids=' || (SELECT pipedrive_id FROM links WHERE gone_at IS NOT NULL) || '$') AS by_id, tokens FROM _look_next();
SELECT _look_take((SELECT look_id FROM _look_next()), 200, (SELECT jsonb_build_object('success', true, 'data', jsonb_build_array(jsonb_build_object('id', l.pipedrive_id) || l.sent)) FROM links l WHERE l.gone_at IS NOT NULL)::text);
SELECT count(*) AS still_gone FROM links WHERE gone_at IS NOT NULL;
SELECT count(*) AS creates FROM t.take() WHERE is_create;

-- A need that nobody told was met, and one that is queued nowhere: the night looks at who waits for nothing.
DELETE FROM jobs;
UPDATE links SET gone_at = now() WHERE kind = 'organization';
SELECT t.order(3, 1);
SELECT t.fold();
DELETE FROM jobs WHERE kind = 'organization';
SELECT count(*) AS calls FROM t.take();
SELECT kind, state FROM jobs ORDER BY kind;
-- The job of what is gone has nothing to send: it stays as a dead letter.
SELECT count(*) AS calls FROM t.take();
SELECT kind, state, class, reason FROM jobs ORDER BY kind;
SELECT kind, holds_back FROM dead_letters;
DELETE FROM jobs WHERE kind = 'organization';
CALL nightly();
SELECT t.send();
SELECT kind, state FROM jobs ORDER BY kind;
UPDATE links SET gone_at = NULL;
DELETE FROM jobs WHERE kind = 'organization';
SELECT t.send();
SELECT kind, state FROM jobs ORDER BY kind;
CALL nightly();
SELECT t.send() IS NOT NULL AS sent;
SELECT count(*) AS jobs FROM jobs;
ROLLBACK;
