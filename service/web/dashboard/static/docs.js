// The reader at /docs. The validator's badge would ask a stranger's server.
SwaggerUIBundle({ url: "/openapi.json", dom_id: "#docs", deepLinking: true, validatorUrl: null });
