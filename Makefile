# exact_pd_sync: build, install, test.
#
#   make, make install        with the server that PG_CONFIG names
#   make installcheck         pg_regress and isolation against a running server
#   make check                everything, in private clusters (see scripts/check)
#   make torture KILLS=1000   kills while orders flow and faults rain (see test/torture)
#   make demo                 the whole job against simulated services
#
# What belongs here: what is built from what.  How a test or a demo runs is a
# script's matter (scripts/).

# These come first and alone: they install what is missing, so they must work
# where there is no pg_config yet.  (PGXS has a target "check", too, which only
# says that it cannot.)
SCRIPT_GOALS = check demo bench torture

.PHONY: $(SCRIPT_GOALS)

ifneq ($(filter $(SCRIPT_GOALS),$(MAKECMDGOALS)),)

$(filter-out torture,$(SCRIPT_GOALS)):
	@scripts/$@

# KILLS, FAULTS (percent of the calls) and SEED may be given.
torture:
	@KILLS=$(KILLS) FAULTS=$(FAULTS) SEED=$(SEED) test/torture/run

else

EXTENSION = exact_pd_sync
EXTVERSION = 1.0
RELEASE = 1.0.0
MODULE_big = exact_pd_sync
PGFILEDESC = "exact_pd_sync - keeps Pipedrive true to Exact Online"

OBJS = \
	src/budget.o \
	src/counters.o \
	src/credentials.o \
	src/delivery.o \
	src/delivery_calls.o \
	src/delivery_look.o \
	src/delivery_take.o \
	src/exact.o \
	src/exact_lock.o \
	src/exact_pd_sync.o \
	src/exact_text.o \
	src/exact_values.o \
	src/exact_write.o \
	src/hints.o \
	src/http.o \
	src/http_headers.o \
	src/http_transfer.o \
	src/http_url.o \
	src/inbox.o \
	src/instance.o \
	src/intake.o \
	src/json_scan.o \
	src/launcher.o \
	src/listen_address.o \
	src/listener.o \
	src/listener_answer.o \
	src/listener_request.o \
	src/oauth.o \
	src/oauth_consent.o \
	src/oauth_endpoint.o \
	src/pipedrive.o \
	src/pipedrive_classify.o \
	src/plan.o \
	src/poll.o \
	src/reconcile.o \
	src/redact.o \
	src/session_lock.o \
	src/settings.o \
	src/setup.o \
	src/shared.o \
	src/steps.o \
	src/subscribe.o \
	src/subscribe_pipedrive.o \
	src/tx.o \
	src/utility_hook.o \
	src/verify.o \
	src/webhook.o \
	src/worker.o
OBJS_UNLISTED := $(filter-out $(OBJS),$(patsubst %.c,%.o,$(wildcard src/*.c)))
$(if $(OBJS_UNLISTED),$(warning not in OBJS: $(OBJS_UNLISTED)))

# The install script is these pieces, in this order.
SQL_PIECES = \
	sql/00_prelude.sql \
	sql/10_config.sql \
	sql/20_staging.sql \
	sql/21_runs.sql \
	sql/25_inbox.sql \
	sql/26_stage_entities.sql \
	sql/27_stage_page.sql \
	sql/28_hints.sql \
	sql/30_queue.sql \
	sql/38_policies.sql \
	sql/39_rules.sql \
	sql/40_wanted.sql \
	sql/50_plan.sql \
	sql/54_causes.sql \
	sql/55_deliver.sql \
	sql/56_settle.sql \
	sql/60_look.sql \
	sql/61_drift.sql \
	sql/62_reconcile.sql \
	sql/63_reconcile_end.sql \
	sql/64_verify_links.sql \
	sql/65_setup.sql \
	sql/66_subscribe.sql \
	sql/67_pipedrive_hooks.sql \
	sql/70_operator.sql \
	sql/75_verify.sql \
	sql/80_views.sql \
	sql/85_health.sql \
	sql/90_schedule.sql \
	sql/99_rights.sql
SQL_UNLISTED := $(filter-out $(SQL_PIECES),$(wildcard sql/[0-9][0-9]_*.sql))
$(if $(SQL_UNLISTED),$(warning not in SQL_PIECES: $(SQL_UNLISTED)))

EXTENSION_SCRIPT = sql/$(EXTENSION)--$(EXTVERSION).sql

DATA_built = $(EXTENSION_SCRIPT)
EXTRA_CLEAN = $(OBJS:.o=.d) tmp_check results output_iso regression.diffs \
	regression.out log dist

# Every file in test/sql and test/specs is a test; one that depends on another
# would be a mistake.
REGRESS = $(sort $(patsubst test/sql/%.sql,%,$(wildcard test/sql/*.sql)))
REGRESS_OPTS = --inputdir=test --load-extension=$(EXTENSION) --encoding=UTF8
ISOLATION = $(sort $(patsubst test/specs/%.spec,%,$(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test --load-extension=$(EXTENSION) --encoding=UTF8

# -Werror is for us (make check), not for the next compiler of a packager.
PG_CPPFLAGS = -Isrc -MMD -MP -DEPDS_VERSION='"$(RELEASE)"'
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter $(if $(WERROR),-Werror)
SHLIB_LINK = -lcurl -lcjson -lcrypto -lmicrohttpd

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)

# Nothing here gains from being inlined by the JIT, and bitcode would make
# clang a requirement for building.
override with_llvm = no

include $(PGXS)

-include $(OBJS:.o=.d)

$(EXTENSION_SCRIPT): $(SQL_PIECES) Makefile
	@echo "assembling $@"
	@{ printf '%s\n' '-- Generated from sql/NN_*.sql; change those, not this.' \
	     '\echo Use "CREATE EXTENSION $(EXTENSION)" to load this file. \quit'; \
	   for piece in $(SQL_PIECES); do \
	     printf '\n-- %s\n\n' "$$piece"; cat "$$piece"; \
	   done; } > $@.tmp && mv $@.tmp $@

# For developers.

CLANG = clang

.PHONY: format-check clang-check dist

# Another compiler's eyes.  The server's headers speak gcc.
clang-check:
	@for file in $(OBJS:.o=.c); do \
	   $(CLANG) -fsyntax-only $(filter-out -MMD -MP,$(CPPFLAGS)) -Wall -Wextra \
	     -Wno-unused-parameter -Wno-ignored-attributes -Wmissing-prototypes \
	     -Wdeclaration-after-statement -Wshadow -std=gnu99 $(if $(WERROR),-Werror) $$file || exit 1; \
	 done

# Judges layout by clang-format and the rules of the house; changes nothing.
format-check:
	@scripts/check-style

# What goes to PGXN: the checked-in files of HEAD.
dist:
	@mkdir -p dist
	git archive --format zip --prefix=$(EXTENSION)-$(RELEASE)/ \
	  --output dist/$(EXTENSION)-$(RELEASE).zip HEAD

endif
